"""The phrase bank of the demo corpus: what a speaker says when the text shows an emotion.

Every phrase was written for this project. A block is headed by the emotions that its phrases fit: one emotion for
the clear phrases, two or three for the ones that are ambiguous on purpose (said aloud, "I can't believe it" may be
surprise, joy or anger, and only voice and face can tell). `bank` cuts the phrases into splits so that no phrase
crosses a split and every block gives the same share to each, hence the ambiguity is the same everywhere.

    block (emotions, language)  ->  shuffled with the seed  ->  train 5/8 | validation 1/8 | test 2/8

Next: `demo_corpus.py` draws from the bank and computes the ceilings that follow from it.
"""

import numpy as np


EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SPLITS = ("train", "validation", "test")
LANGUAGES = ("en", "zh")

# One phrase a line; a blank line ends the English part and begins the Chinese one.
_BLOCKS: dict[tuple[str, ...], str] = {
    ("neutral",): """
The meeting starts at three in the small room.
I put the keys on the table by the door.
The bus to the station leaves every ten minutes.
She works in the office on the second floor.
Turn left at the bank and go straight on.
The report has twelve pages and two tables.
I usually have toast and coffee for breakfast.
The library is open until six on weekdays.
We moved the printer to the other room.
You can find the form on the website.
The package weighs about two kilos.
He takes the train to work on Mondays.
The shop on the corner sells paper and pens.
I will send you the file this afternoon.
The temperature is around eighteen degrees today.
There are four chairs and one table in the room.
My appointment is on Tuesday at nine.
The recipe needs two eggs and some flour.
Please write your name at the top of the page.
The museum is next to the post office.
I updated the calendar with the new times.
The second number is the phone of the office.
We need milk, bread and a bag of rice.
The car is parked behind the building.
The course has ten lessons of one hour each.
I changed the battery in the clock this morning.
The blue folder goes on the upper shelf.
The next item on the list is the schedule.
They paint the fence every second year.
The ticket costs five euros for adults.
I read the first chapter on the train.
The window faces the street, the door faces the yard.
The plane lands at half past four.
The manual explains the settings on page six.
The store closes at eight on weekdays.
We use this cupboard for plates and cups.
The river runs along the edge of the town.
I filled in the form and sent it by post.
The room number is two hundred and six.
The lesson was moved from Monday to Wednesday.

会议下午三点在小会议室开始。
钥匙在门口的桌子上。
去车站的公交车十分钟一班。
她在二楼的办公室上班。
在银行那里左转，然后直走。
这份报告一共有十二页。
我早饭一般吃面包，喝咖啡。
图书馆工作日开到晚上六点。
打印机搬到另一个房间了。
表格可以在网站上下载。
他星期一坐火车去上班。
今天气温大概十八度。
我下午把文件发给你。
请在第一页写上你的名字。
车停在大楼后面。
门票成人五块钱一张。
博物馆在邮局旁边。
下一项是安排时间表。
蓝色的文件夹放在上面的架子上。
课程一共十节，每节一个小时。
""",
    ("surprise",): """
Wow, where did you come from all of a sudden?
Wait, what? You two got married last week?
No way, that was you behind the mask?
I never saw that coming, not in a hundred years.
Whoa, it just appeared out of nowhere!
Hold on, you mean she is your twin?
What? Since when do you speak Japanese?
Goodness, I did not expect to see you here!
Oh wow, the whole town showed up!
Really? He said yes just like that?
Wait, it's already Friday? How did that happen?
Huh, so the quiet one was the singer all along?
My jaw just dropped when the wall opened.
Who would have thought the answer was that simple?
Whoa, you cut off all your hair!
Seriously? The cat learned to open the fridge?
You're kidding, the same name and the same birthday?
Out of the blue he called after twenty years.
What on earth, it's snowing in June!
Wow, I had no idea you could do that!
Wait, wait, go back, what did you just say?
Nobody told me there would be a live elephant!
Oh my, the box was empty the whole time?
That twist totally came out of nowhere.
Really, you walked all the way from the coast?
I was not expecting that ending at all, wow.
Since when is there a door in this wall?
Hang on, that tiny dog ate the whole turkey?
What, you mean you were here this whole time?
Unbelievable, the numbers match to the last digit!
Whoa, look how tall you have grown!
Well, that is not at all what I expected!
You are telling me the statue just moved?
Gosh, I would never have guessed it was you.
No way, the old radio suddenly works again?
What are the odds that we meet on this island?
Oh! I thought you were still in Canada!
Wow, all of the lights came on at once!
Seriously, that old man is the champion?
Huh? Three babies, not one, but three?

哇，你怎么突然冒出来了？
等等，什么？你们上周结婚了？
没想到面具后面的人居然是你！
我完全没料到会是这样的结局。
哇，它突然就出现在眼前！
真的假的？她是你的双胞胎妹妹？
咦，你什么时候学会日语的？
天哪，居然会在这里碰到你！
什么？他就这么答应了？
怎么已经星期五了？
原来唱歌的人一直是你呀！
谁能想到答案竟然这么简单！
哇，你把头发全剪了？
六月居然下雪了，太意外了！
万万没想到你还有这一手！
等一下，你刚才说什么？再说一遍！
咦，这面墙上怎么会有一扇门？
居然是同名同姓，还同一天生日？
哎呀，我还以为你在国外呢！
竟然是三胞胎？不是一个，是三个？
""",
    ("fear",): """
Please don't turn off the light, I'm scared.
Someone is following us, walk faster.
I heard footsteps upstairs and I'm home alone.
Hide, quick, he is coming back!
My hands are shaking and I can't breathe.
Don't go down there, it's too dangerous.
What if they find us in here?
Run, don't look back, just run!
There is a shadow moving behind the curtain.
I'm terrified the ropes won't hold us.
Lock the door, he has a knife!
My heart is pounding, something is out there.
The plane is shaking, are we going to crash?
I'm too scared to open my eyes.
Stay close to me, I don't feel safe here.
Help, the water is rising and we're trapped!
What if the doctor finds something bad?
Be quiet or it will hear us.
I had a nightmare and now I'm afraid to sleep.
Don't let go of me, it's so high up here.
Is the monster still under the bed?
I'm frightened, let's get out of this place.
The brakes don't work, we can't stop!
I think somebody is hiding in the basement.
My legs are trembling, I can't cross that bridge.
Please don't hurt me, take the money.
Call the police, he's breaking in!
I'm so afraid of what happens if we fail.
Did you hear that scream in the dark?
We have to hide before they see us.
I keep looking behind me in this dark alley.
The walls are closing in, I'm panicking.
Don't move, the snake is right beside you.
I dread walking past that graveyard at night.
It's getting dark and we are lost in the woods.
What if the ice breaks under our feet?
I'm shaking all over, that thing nearly killed us.
The dog is growling, don't make it attack.
I'm scared he will come after us again.
The smoke is coming in, we won't get out!

求求你别关灯，我害怕。
有人在跟踪我们，快点走。
我一个人在家，听到楼上有脚步声。
快躲起来，他要回来了！
我的手一直在发抖，喘不过气来。
别下去，那里太危险了。
万一被他们发现了怎么办？
快跑，千万别回头！
窗帘后面好像有个黑影在动。
快锁门，他手里有刀！
我的心怦怦直跳，外面有东西。
飞机晃得好厉害，会不会掉下去？
我吓得不敢睁开眼睛。
救命，水涨上来了，我们被困住了！
别出声，它会听见的。
我做了噩梦，现在不敢睡觉。
这里太高了，我腿都软了。
刹车失灵了，停不下来！
天黑了，我们在树林里迷路了，好怕。
求你别伤害我，钱都给你。
""",
    ("sadness",): """
I miss her so much since she passed away.
I cried all night and nobody called.
We buried our old dog this morning.
The house feels so empty without the kids.
I lost everything I ever cared about.
Nobody came to my birthday, I sat there alone.
My heart is broken and it won't heal.
She's gone and I never said goodbye.
I can't stop crying over that letter.
Grandpa doesn't remember my name anymore.
I feel so lonely in this big city.
He left us when I was five years old.
All my friends have moved away, I'm alone.
It hurts to look at her old photos.
I just want to stay in bed and cry.
They took down the tree we planted together.
The funeral was on a grey, rainy day.
Nothing makes me smile these days.
I wish I could hear his voice once more.
We lost the baby in the spring.
Her chair at the table stays empty now.
I worked so hard and it was all for nothing.
My best friend doesn't talk to me anymore.
I gave up on my dream a long time ago.
He died before I could tell him I was sorry.
Tears come every time I hear that song.
I feel empty, as if nothing matters now.
The doctor said she won't come home again.
It breaks my heart to see him so weak.
We had to sell the house I grew up in.
I'm so lonely that I talk to the walls.
She left a note and took her things, she's gone.
Mum is crying in the kitchen again.
I let everyone down and I feel so low.
Our last summer together is over, I miss it.
The old man eats his dinner alone every night.
I keep his sweater because it still smells like him.
They closed the school, and everyone wept.
I failed again, maybe I'm just not good enough.
Goodbye, old friend, I will miss you terribly.

她走了以后，我一直很想她。
我哭了一整夜，没有人安慰我。
今天早上我们把老狗埋了。
孩子们走了，家里空荡荡的。
我失去了最在乎的一切。
生日那天没有人来，我一个人坐着。
我的心碎了，再也好不了了。
我还没来得及跟他告别，他就走了。
看着旧照片，眼泪就止不住。
爷爷已经不记得我的名字了。
在这个城市里，我觉得好孤单。
朋友们都搬走了，只剩下我一个人。
我只想躺在床上哭。
葬礼那天下着雨，大家都哭了。
真想再听一次他的声音。
努力了这么久，全都白费了，好难过。
我们不得不卖掉从小长大的老房子。
每次听到那首歌我都会流泪。
她的座位一直空着，再也不会回来了。
我又失败了，也许我真的不行。
""",
    ("joy",): """
I got the job, I'm so happy!
This is the best day of my life!
Hooray, we won the final!
I love spending sunny days with you all.
Our baby took her first steps, how wonderful!
Let's dance, this song always makes me smile.
We're going on holiday tomorrow, yay!
I passed the exam with the highest mark!
Thank you, this present is absolutely lovely!
I'm so proud of you, well done!
She said yes, we're getting married, hooray!
What a beautiful morning, I feel great!
I laughed so hard my belly hurts.
Everyone I love is here, this is perfect.
The puppy is so cute, I love him!
We did it, we really did it, cheers!
I can't stop smiling since you called.
Yay, it's snowing, let's build a snowman!
That was so much fun, let's go again!
I'm so glad you are home again!
The cake is delicious, you're the best!
Finally, the sun is out, let's celebrate!
My heart is singing, life is wonderful.
We had the loveliest picnic by the lake.
Congratulations, you earned every bit of it!
I feel so lucky to have friends like you.
Best concert ever, I sang along all night!
Great news, grandma is healthy again!
I'm in love and everything looks brighter.
Look at them play, aren't they adorable?
The team played great, what a lovely win!
Come here and give me a big hug!
I'm delighted that you like the garden.
It feels amazing to be on stage with you.
Happy birthday, let's party until morning!
We laughed and danced the whole evening.
I love this place, it's pure magic.
Woohoo, no school for the next six weeks!
Such a sweet message, it made my day.
Everything worked out, I'm thrilled!

我拿到工作了，太高兴了！
今天是我一生中最棒的一天！
太好了，我们赢了决赛！
宝宝会走路了，真开心！
这首歌一听就让人想跳舞，好快乐。
耶，明天就去度假啦！
我考了全班第一，太棒了！
谢谢你，这个礼物我太喜欢了！
真为你骄傲，干得漂亮！
她答应嫁给我了，我好幸福！
多美的早晨，心情真好！
笑得我肚子都疼了，哈哈。
我爱的人都在这里，真幸福。
小狗太可爱了，我好喜欢！
我们成功了，干杯！
太好玩了，我们再来一次吧！
你终于回家了，我真高兴！
蛋糕真好吃，你最棒了！
生日快乐，今晚好好庆祝！
有你们这样的朋友，我真幸运。
""",
    ("disgust",): """
Ew, there's mould all over the bread.
That smell makes me want to throw up.
Yuck, the milk has gone sour and lumpy.
Gross, he wiped his nose on the towel.
This toilet is filthy, I'm not going in.
The meat is rotten and full of maggots.
Ugh, he chews with his mouth wide open.
Eww, somebody left toenails on the sofa.
The fridge stinks of old fish, yuck.
I feel sick just looking at that slime.
That's nasty, she spat into the soup.
The sink is full of greasy, stinking water.
Ugh, my shoe is covered in dog poo.
It tastes like dirty socks, I'm going to vomit.
Gross, there's chewed gum under the table.
The drain is clogged with slimy hair, ew.
His breath stinks of onions and stale beer.
Yuck, this apple is all brown and mushy.
Never eat there, the kitchen was filthy.
He picked his nose and ate it, how gross.
The bin leaks and the floor is sticky, ugh.
That sauce looks like vomit, take it away.
Ew, you used my toothbrush on the drain?
The carpet reeks of cat pee, it's revolting.
I gagged when I saw the pus.
The pond is covered in stinking green scum.
Yuck, I bit into something soft and rotten.
Those dirty nails make my stomach turn.
Ugh, the whole bus smelled of sweat and vomit.
That's repulsive, there are flies in the butter.
Eww, he licked the plate and put it back.
The sheets are stained and they stink.
The smell of that rotten egg is sickening.
Ick, the sponge is slimy and smells foul.
He burped right in my face, so gross.
Yuck, the glass still has lipstick and grease on it.
The raw liver was slimy, I nearly gagged.
Ugh, what a foul, stinking mess in here.
The old cheese is crawling with mites, nasty.
I find his dirty jokes simply revolting.

呃，面包上全是霉，真恶心。
这味道臭得我想吐。
牛奶都馊了，还结块，呕。
好脏啊，他用毛巾擦鼻涕。
这厕所太脏了，我才不进去。
肉都烂了，还长了蛆，好恶心。
他吃饭吧唧嘴，看得我反胃。
冰箱里一股臭鱼味，呕。
那黏糊糊的东西看着就想吐。
她往汤里吐口水，真恶心。
水池里全是油腻的臭水。
呃，我踩到狗屎了，臭死了。
这味道像臭袜子，太难吃了，呕。
下水道里全是黏黏的头发，好恶心。
他一张嘴就是一股臭味，熏死人了。
苹果都烂成泥了，恶心死了。
他挖完鼻孔又去拿菜，太脏了。
地毯上一股猫尿味，臭烘烘的。
床单又脏又臭，全是污渍。
黄油里有苍蝇，看着就反胃。
""",
    ("anger",): """
How dare you read my private letters!
I've had enough of your lies, get out!
Stop shouting at me, this is your fault!
You broke it on purpose, you idiot!
This is outrageous, I want to see the manager!
Shut up and listen to me for once!
I'm sick and tired of your stupid excuses.
Who the hell parked in front of my door?
Don't you ever talk to me like that!
You cheated me, give me my money back!
I'm furious, he stole my idea again!
Get your hands off my things right now!
What the hell is wrong with you people?
That idiot cut me off in traffic again!
You lied to my face, how dare you!
This is the last time you insult me!
I swear, I'll slam that door in his face.
Damn it, they overcharged us again!
You had no right to do that, none!
Stop blaming me for your own damn mistakes!
I'm fed up with this useless service!
Are you deaf? I said no, damn it!
They fired me for nothing, those bastards!
You ruined everything, and you don't even apologise!
Enough! Keep your mouth shut and get out!
It makes my blood boil how they treat her.
I hate it when you ignore me, answer me!
Who gave you permission to touch my car?
This is unacceptable, I'll sue the company!
He pushed my son, I'm going to kill him!
You selfish brat, give it back this minute!
For the last time, stop kicking my seat!
I demand an apology, and I demand it now!
Those damn neighbours are drilling at midnight again!
Quit wasting my time with this nonsense!
You had one job and you screwed it up!
I'm so mad I could punch the wall.
Don't you dare walk away from me!
How many times do I have to yell at you?
They treat us like dirt, and I won't take it!

你怎么敢偷看我的信！
我受够了你的谎话，滚出去！
别冲我吼，这都是你的错！
你是故意弄坏的，混蛋！
太过分了，叫你们经理出来！
闭嘴，你给我听着！
我受够了你那些愚蠢的借口。
谁他妈把车停在我家门口？
你再敢这样跟我说话试试！
骗子，把钱还给我！
气死我了，他又偷了我的主意！
把你的手拿开，别碰我的东西！
你们到底有没有脑子？
你当面骗我，你怎么敢！
凭什么怪我，明明是你搞砸的！
这种破服务，我要投诉你们！
他敢推我儿子，我饶不了他！
你给我道歉，现在就道歉！
半夜还在装修，太可恶了！
你太自私了，马上给我还回来！
""",
    ("surprise", "joy", "anger"): """
I can't believe it!
I just cannot believe you did this!
Oh my God, you actually did it!
This is incredible, simply incredible!
You really went and told everyone!
Are you serious? All of it?
He got the prize, of all people!
I don't believe this, look at the score!

我简直不敢相信！
你居然真的这么做了！
天啊，他竟然拿了奖！
你是认真的吗？全部？
""",
    ("surprise", "fear"): """
What was that noise?
Who's there? Hello?
Oh God, what is that thing?
Did that door just open by itself?
Something just touched my shoulder!
Look up, what is that in the sky?
Wait, how did you get in here?
Why did all the lights go out?

刚才那是什么声音？
谁在那里？
那是什么东西？
门怎么自己开了？
""",
    ("sadness", "anger"): """
You promised me that you would be there.
After all I did for you, this is what I get.
You never really cared about me.
Why does this always happen to me?
He forgot my birthday again.
You chose your work over us again.
They never gave me a chance.
You could at least have called me.

你答应过我会来的。
我为你做了那么多，你就这样对我。
你从来没在乎过我。
为什么总是我？
""",
    ("disgust", "anger"): """
Get that away from me!
People like him make me sick.
What you did is just wrong.
Don't you ever put that on my table again!
How can anybody behave like that?
You should be ashamed of yourself.
I don't even want to look at you.
Take your feet off my pillow!

拿开，离我远点！
这种人真让我受不了。
你不觉得丢人吗？
我看都不想看你一眼。
""",
    ("neutral", "sadness"): """
There is nothing more to say.
I'm going home now.
He doesn't live here anymore.
It's raining again today.
They sold the house last year.
I have not heard from her since March.
We don't see each other very often.
I'll be eating by myself tonight.

没有什么可说的了。
他已经不住在这里了。
今天又下雨了。
我们很久没见面了。
""",
    ("neutral", "joy"): """
It's almost the weekend.
My sister is coming on Friday.
We are having pasta for dinner tonight.
The letter from the school is here.
I'm going to the beach with the kids.
They are getting married in May.
My holiday starts next week.
There is a new bakery in our street.

快到周末了。
我姐姐星期五来。
他们五月结婚。
我下周开始放假。
""",
    ("fear", "sadness"): """
I don't know what to do anymore.
Please don't leave me here.
What is going to happen to us now?
The doctor wants to see us tomorrow.
I don't think he will make it.
She still isn't answering her phone.
I don't want to be alone tonight.
We may never see them again.

我不知道该怎么办了。
别离开我，好吗？
我们以后会怎么样？
她还是没有接电话。
""",
    ("surprise", "disgust"): """
You put what in the soup?
Is that a hair in my salad?
Oh, you eat that raw?
What is that smell?
Wait, that's a real tongue on the plate?
You haven't washed it in a year?
They really drink that stuff?
Is that thing in the jar an eye?

你往汤里放了什么？
这沙拉里是头发吗？
这个你们生吃？
这是什么味道？
""",
    ("neutral", "anger"): """
Close the door behind you.
I've already told you that twice.
The neighbours have a visitor again.
You can wait outside.
That is not what we agreed on.
Your music is on again.
Sit down, we need to talk.
You are twenty minutes late.

把门关上。
这件事我已经跟你说过两遍了。
你迟到了二十分钟。
坐下，我们谈谈。
""",
    ("sadness", "joy"): """
I will never forget this day.
I'm crying right now, look at me.
So this is our last day of school.
My little girl is leaving home.
I still have all of your letters.
I have tears in my eyes.
We'll always have that summer.
It's finally over, after all these years.

我永远不会忘记这一天。
你看，我眼泪都出来了。
我的女儿要离开家了。
这么多年，终于结束了。
""",
    ("fear", "disgust"): """
There's something crawling up my leg!
Don't touch it, it's still moving!
Get this spider off me!
There is blood all over the floor.
The cellar is full of rats.
I'm not putting my hand in there.
Keep that needle away from me!
There are cockroaches under my bed!

有东西在我腿上爬！
别碰它，它还在动！
地上全是血。
地下室里全是老鼠。
""",
    ("neutral", "surprise"): """
Oh, you're here already.
So you two know each other.
There is a letter for you from Brazil.
He moved to Iceland last week.
It seems the shop is closed today.
You have painted the kitchen green.
The train was on time today.
She has five brothers, you said?

哦，你已经到了。
原来你们认识。
今天火车准点了。
他上周搬到冰岛去了。
""",
}


def phrases() -> list[tuple[str, str, tuple[str, ...]]]:
    """All phrases in the written order: (text, language, emotions that it fits)."""
    rows = []
    for emotions, block in _BLOCKS.items():
        parts = block.strip().split("\n\n")
        for language, part in zip(LANGUAGES, parts, strict=True):
            rows += [(line.strip(), language, emotions) for line in part.splitlines()]
    return rows


def bank(seed: int = 0) -> list[tuple[str, str, tuple[str, ...]]]:
    """The half of the phrases that a corpus uses, the same share of each emotion set and language.

    All splits speak from one bank: what is held out of training are the speakers and the clips. With half of the
    phrases each is heard several times in training, as often as its noisy labels take to be learnt.

    Args:
        seed: decides which phrases are used.

    Returns:
        (text, language, emotions that it fits), in the written order.
    """
    rng = np.random.default_rng([seed, 7_001])
    blocks: dict[tuple[tuple[str, ...], str], list[int]] = {}
    rows = phrases()
    for index, (_, language, emotions) in enumerate(rows):
        blocks.setdefault((emotions, language), []).append(index)
    kept = {int(index) for block in blocks.values() for index in rng.permutation(block)[: (len(block) + 1) // 2]}
    return [row for index, row in enumerate(rows) if index in kept]
